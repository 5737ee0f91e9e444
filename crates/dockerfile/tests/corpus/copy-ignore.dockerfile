FROM scratch
COPY a b /
COPY d/*.txt /d/
ADD e /
