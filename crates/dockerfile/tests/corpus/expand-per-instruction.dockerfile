FROM busybox
ARG X=val
WORKDIR /$X
USER $X:$X
EXPOSE $X_80 80
VOLUME /v$X
STOPSIGNAL ${S:-9}
LABEL l=$X k$X=v
COPY --chown=$X:1 a$X /$X/
ADD $X.txt /$X
RUN echo $X
CMD echo $X
ENTRYPOINT echo $X
