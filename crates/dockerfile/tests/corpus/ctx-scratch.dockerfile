FROM base
COPY x /
