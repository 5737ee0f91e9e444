FROM scratch AS a
COPY one /
FROM scratch AS b
COPY two three/ /
FROM scratch
COPY --from=a / /
COPY four/five /
