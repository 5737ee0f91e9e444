FROM scratch
COPY a /
ADD b /
