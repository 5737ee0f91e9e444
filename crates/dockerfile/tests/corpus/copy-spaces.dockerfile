FROM scratch
COPY ["a b.txt", "/c d/"]
COPY a\ b /c
