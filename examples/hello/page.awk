# Text to a page: the first line is the heading, blank lines end paragraphs.
BEGIN { printf "<!doctype html>\n<title>%s</title>\n", title }
NR == 1 { printf "<h1>%s</h1>\n", $0; next }
/^$/ { if (open) print "</p>"; open = 0; next }
{ if (!open) printf "<p>"; open = 1; print }
END { if (open) print "</p>" }
