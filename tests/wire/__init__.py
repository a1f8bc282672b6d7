"""Tests over a real socket: what fastbean answers, and what the real beanstalkd answers to the same bytes."""
