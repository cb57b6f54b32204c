"""What the labeling page and the report share in the browser: script modules and a style sheet, without a build step."""
