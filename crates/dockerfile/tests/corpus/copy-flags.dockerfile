FROM busybox
COPY --chown=1:2 a /
COPY --chown=u a /
COPY --chown=u:g --chmod=755 a /
COPY --chmod=0644 a /
COPY --chmod=u=rw,g+r a /
COPY --link a /
COPY --link --chown=1 a b /c/
COPY --parents a/b ./c/./d/*.txt /x/
COPY --exclude=*.md --exclude=b/* . /d/
