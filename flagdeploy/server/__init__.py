"""The pytorch engine: an OpenAI-compatible server over transformers, on CPU or any torch device.

It is the project's numerical referee: slow, exact (float32 unless told otherwise), with
log-probabilities of prompt and output. `protocol` says which request fields it takes,
`batch` how requests share the model, `__main__` how it is started::

    python -m flagdeploy.server --model DIR --host 127.0.0.1 --port 8000 --served-model-name NAME

An API key comes from the environment, ``FLAGDEPLOY_API_KEY``, never from the command line.
"""
