"""Floating point strategies without subnormal numbers, which torch may have set the processor to flush to zero."""

from hypothesis import strategies as st

FLOATS = st.floats(allow_subnormal=False)
FINITE = st.floats(allow_nan=False, allow_subnormal=False)
SHARES = st.floats(0, 1, exclude_max=True, allow_subnormal=False)
