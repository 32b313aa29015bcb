"""What a block is and does: transactions, headers, genesis, the state transition, the pool, sync.

The only package that knows all contexts and carries plain values between them. A block's effect is
a function of (state, block).
"""
