"""Tests of gizmopy.web.security."""
