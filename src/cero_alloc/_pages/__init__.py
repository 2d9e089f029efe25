"""Pieces of web pages that need no network and no script: text, tables, style, and figures in inline SVG."""
