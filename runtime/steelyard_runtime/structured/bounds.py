"""What a grammar may cost: its text, its trial, a mask, the memory of all grammars together.

Measured with SmolLM2's vocabulary (49,152 tokens), llguidance 1.9.1 and one core of Zen 4, as the
processor time of compiling and of the slowest of the first masks:

=========================================  =========  =====
schema                                     compiling  mask
=========================================  =========  =====
`{"type": "object"}`, and most             1 ms       3 ms
500 optional properties                    90 ms      4 ms
2,000 optional properties                  0.4 s      26 ms
an enum of 50,000 strings (690 kB)         0.4 s      7 ms
`multipleOf` 9973 / 999983                 40 ms/9 s  13 ms
10,000 properties                          10 s       0.6 s
30 patterns under `allOf`                  over 40 s
a `const` of 100 kB / of 1 MB              20 ms      0.6 s/2 s
=========================================  =========  =====

llguidance's own limits end neither `multipleOf` nor `allOf`, and 20,000 chained `$ref` overflow the
stack. That is why every grammar is tried in a process of its own first.
"""

import llguidance

QUICK_CPU_SECONDS = 0.15
"""A trial's first share of processor time; what needs more waits among its like for the rest."""

TRIAL_CPU_SECONDS = 1.0
"""Processor time of a trial, and so of compiling it again in the engine process."""

TRIAL_WALL_SECONDS = 10.0
"""The end of a trial that gets no processor time."""

ANSWER_SECONDS = 12.0
"""A trial process that has told nothing of a trial by then is killed, and another one started."""

TRIAL_MEMORY_BYTES = 256 * 1024**2
"""What a trial may allocate; the usual grammar takes less than 1 MiB, an enum of 50,000 23 MiB."""

TRIAL_STACK_BYTES = 8 * 1024**2
"""The stack of a trial; threads of the engine process that do the same have twice that."""

TRIAL_TOKENS = 16
"""How many tokens of random output a trial goes through after its first mask."""

MASK_CPU_SECONDS = 0.5
"""Processor time of one step of a grammar: take a token in, compute the next mask."""

SLOW_CPU_SECONDS = 0.02
"""What takes longer than this waits for the one thread that slow grammars share."""

MANY_TOKENS = 2000
"""More tokens at once are slow, too (0.03 ms each): output that another worker made."""

MASK_WAIT_SECONDS = 0.03
"""How long a step waits for masks; sequences whose mask is not there sit this step out."""

MAX_QUEUED_TRIALS = 64
MAX_QUEUED_TRIALS_OF_ONE = 16
"""New grammars that wait for a trial: of all clients, and of one."""

QUEUE_SECONDS = 15.0
"""How long a request waits for its grammar before it is sent away."""

REFUSAL_SECONDS = 300.0
MAX_REFUSALS = 1024
"""How long, and how many, refused grammars are remembered: they are not tried again."""

MAX_CACHED_GRAMMARS = 128
MAX_CACHED_BYTES = 128 * 1024**2
"""Compiled grammars that are kept for the next request."""

MAX_LIVE_BYTES = 1024**3
"""Memory of the grammars of all sequences together, as measured in their trials."""

MIN_GRAMMAR_BYTES = 256 * 1024
"""What a grammar counts at least."""


def parser_limits() -> llguidance.LLParserLimits:
    """Return llguidance's limits where ours differ from its defaults.

    A row of 2,000 items (the default) refuses an object of 500 optional properties, which takes
    2,007; 250,000 lexer states (the default) are up to 500 MB in every sequence.
    """
    return llguidance.LLParserLimits(
        max_items_in_row=10_000, max_lexer_states=20_000, verbose_errors=False
    )
