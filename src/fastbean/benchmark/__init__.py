"""The load tool, ``fastbean benchmark``: how fast is a beanstalk server?

It works with any beanstalk server. ``tool`` reads the command line, ``scenarios`` says what is played, ``session``
plays it and cleans up, ``server`` is the server that is measured, ``report`` tells what was found. Everything that is
done for each request is compiled, in ``fastbean.benchmark.load``. docs/benchmark.md says how to get numbers that mean
something.
"""
