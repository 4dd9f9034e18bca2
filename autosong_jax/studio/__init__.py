"""A page to sing from, and the same over HTTP: `python -m autosong_jax.studio`.

`app.py` answers requests, behind what `guard.py` lets through. `worker.py` sings, one song after another, with the
models of `models.py`; `library.py` keeps songs on disk. What requests and answers look like is in `schema.py`, and
`static/` is the page.
"""
