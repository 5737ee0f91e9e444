FROM busybox
COPY a /
COPY a b c/ /d/
COPY ["a b", "c", "/d e/"]
COPY . .
WORKDIR /w
COPY x y
COPY x ./y/
COPY *.go ?.c /src/
