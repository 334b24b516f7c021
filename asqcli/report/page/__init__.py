"""The page of a report: one file of HTML, with its style and pictures in it, that needs no network and runs no script.

page     the whole, from page.html
summary  what runs are and what they came to, and their layers, as tables
studies  the tables of a study
html     elements; every text goes through it, and is escaped
"""
