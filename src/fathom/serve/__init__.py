"""The page over HTTP, on this machine alone: `fathom serve`.

shelf   the models that were named at the start, each opened when it is first asked for
desk    passes that were run, the newest kept, and the one thread that runs models
guard   what a request must be before anything reads it
runs    runs that are watched, and small ones started, stopped and resumed
app     the routes
server  the socket, the browser, and the end
"""
