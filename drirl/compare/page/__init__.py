"""``reports/index.html``: the whole comparison as one page that needs no network."""
