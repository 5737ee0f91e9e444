FROM scratch
COPY / /
COPY ./ ./
COPY .. /x
COPY ../a /y
COPY /a/../b /z
