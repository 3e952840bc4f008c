"""`git soup ui`: a local, read-only web page over the same reports as the command line.

An edge, as the command line is one: `server` decides who may ask, `site` which command
answers, the other files how its report looks. Nothing here writes, and nothing is fetched.
"""
