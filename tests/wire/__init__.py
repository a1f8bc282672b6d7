"""Tests over real sockets: the replies of fastbean, and those of real beanstalkd to the same bytes."""
