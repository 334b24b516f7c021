"""A network of every kind of node."""

import torch
from torch import nn
from torch.nn import functional as F


class MixedNet(nn.Module):
    """For images of 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.grouped = nn.Conv2d(16, 8, (1, 3), stride=2, groups=2)
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.slopes = nn.PReLU(8, init=0.3)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = F.leaky_relu(self.norm(self.stem(x)), 0.1)
        x = F.hardswish(x + self.depthwise(x))
        x = torch.cat([F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 2)], dim=1)
        x = x / 1.5 - 0.25
        x = F.silu(self.slopes(self.grouped(F.pad(x.clamp(-1, 4), (1, 1, 0, 1)))))
        x = x * torch.sigmoid(self.squeeze(F.adaptive_avg_pool2d(x, 1)))
        first, second = x.transpose(2, 3).chunk(2, dim=1)
        x = torch.cat([F.hardsigmoid(first), F.gelu(second[:, ::1, ::2])], dim=2)[:, :, :4]
        x = F.gelu(torch.cat([x, x], dim=1), approximate="tanh")
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))
