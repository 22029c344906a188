"""`fathom serve`: OpenAI's API for a model and its adapters, and the page that shows what models compute.

schema      requests and answers of the API
strict      JSON of a request, read strictly
failures    what went wrong, in OpenAI's shape
served      the model that the API answers with
prompts     what a request asks of the engine: ids, options, a grammar
calls       calls of tools in what a model writes
worker      the one thread that owns the engine
answers     what is written, whole or as a stream
metrics     figures for Prometheus
api         the routes of the API

shelf       the models that were named at the start, each opened when the page first asks for it
desk        passes that were run, the newest kept, and the one thread that runs the page's models
runs        runs that are watched, and small ones started, stopped and resumed
app         the routes of the page

guard       what a request must be before anything reads it
place       where is listened, and who may ask there
connection  the time that a request may take to arrive
server      the socket, the browser, and the end
"""
