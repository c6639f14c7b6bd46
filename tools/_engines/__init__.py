"""Real database servers for the tests: installed without root, on loopback only, gone when their user is gone.

From a test:

    from _engines import postgres

    with postgres.server(fsync=False) as server:
        connect(server.url)
        server.kill()       # SIGKILL to every process of it
        server.restart()    # same data, same port; returns when it accepts connections

From a shell: `tools/engines run postgres -- pytest`. A new server is one recipe (see server.py) and one line in
registry.py.
"""
