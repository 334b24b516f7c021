/* The numbers of the fixed arithmetic, as asqcli/arithmetic/constants.py tells of them; a test compares the two. */

#ifndef ASQ_CONSTANTS_H
#define ASQ_CONSTANTS_H

#define ADAPTER_LANES 8
#define PAPER_SMALLEST_BETA 1e-8
#define SIXTH (1.0f / 6.0f)

#define LOG2_E 1.4426950408889634
#define LN2_HIGH 0.6931471803691238
#define LN2_LOW 1.9082149292705877e-10
#define EXP_COEFFICIENTS \
    {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, \
     1.0 / 120,       1.0 / 24,       1.0 / 6,       1.0 / 2,      1.0,         1.0}
#define EXP_LARGEST 700.0

#endif
