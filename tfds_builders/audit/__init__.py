"""What was found in a source, for people (`audit.html`), programs (`audit.json`) and code review (`audit.sarif`)."""
