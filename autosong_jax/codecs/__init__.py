"""Codecs: what turns audio into frames and back; one folder each."""
