"""Fitting adapters: data sets, the fit, its report, the job and the worker."""
