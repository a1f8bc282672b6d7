"""The load tool, ``fastbean benchmark``: how fast is a beanstalk server?

It works with any beanstalk server. ``tool`` reads the command line, ``scenarios`` defines the scenarios, ``session``
runs them and cleans up, ``server`` is the server under test, ``report`` formats the results. Everything that happens
once per request is compiled, in ``fastbean.benchmark.load``. docs/benchmark.md explains how to get meaningful numbers.
"""
