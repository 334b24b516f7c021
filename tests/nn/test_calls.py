import pytest
import torch
from torch import nn

from asqcli.nn.calls import CallRecord
from asqcli.nn.survey import RunError, survey


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 3, 1))
        self.alias = self.inner

    def forward(self, x):
        return self.alias(self.inner(x))


def test_calls_are_recorded_in_order_with_shapes():
    model = Twice()
    with CallRecord(model) as record:
        model(torch.zeros(1, 3, 4, 4))
    assert [call.name for call in record.calls] == ["", "inner", "inner.0", "inner", "inner.0"]
    assert {call.input_shape for call in record.calls} == {call.output_shape for call in record.calls} == {(1, 3, 4, 4)}
    assert not record.running
    model(torch.zeros(1, 3, 4, 4))
    assert len(record.calls) == 5  # the hooks are gone


def test_inputs_by_keyword_and_none_at_all():
    class Keywords(nn.Module):
        def forward(self, *, x=None):
            return x

    model = Keywords()
    with CallRecord(model) as record:
        model(x=torch.zeros(2, 5))
        model()
    assert [call.input_shape for call in record.calls] == [(2, 5), None]
    assert [call.output_shape for call in record.calls] == [(2, 5), None]


def test_an_exception_that_the_network_catches_leaves_no_call_behind():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow = nn.Sequential(nn.Conv2d(9, 2, 1)), nn.Conv2d(3, 2, 1)

        def forward(self, x):
            try:
                return self.wide(x)
            except RuntimeError:
                return self.narrow(x)

    model = nn.Sequential(Careful(), nn.ReLU())
    with CallRecord(model) as record:
        model(torch.zeros(1, 3, 2, 2))
    assert [call.name for call in record.calls] == ["", "0", "0.wide", "0.wide.0", "0.narrow", "1"]
    assert not record.running


def test_the_survey_names_the_layer_that_fails():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(5, 4, 3)))
    with pytest.raises(RunError, match=r"in layer `1\.1` \(Conv2d\), which gets \(1, 4, 6, 6\): RuntimeError"):
        survey(model, torch.zeros(1, 3, 8, 8))
