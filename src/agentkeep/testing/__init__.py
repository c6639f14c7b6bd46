"""The contract as tests: a pytest plugin that every engine runs, custom ones included.

    pytest --agentkeep-engine='sqlite:///{tmp}/{unique}.db'

runs the whole suite on one engine; `from agentkeep.testing.suite import *` in a test file does it among other tests.
`plugin` says how to name the engines.
"""
