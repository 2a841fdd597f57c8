"""`neuroflow demo`: the whole way on one machine."""

from verbs.demo.command import run_demo as run_demo
