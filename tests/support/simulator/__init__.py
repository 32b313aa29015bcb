"""A deterministic simulator around the real consensus engine: one seed fixes everything.

Entry points: `campaigns.CAMPAIGNS` (what runs), `world.World` (what it runs in), `judge.Judge`
(what must hold), `mutants.MUTANTS` (what must be caught). How to use it: docs/simulation.md.
"""
