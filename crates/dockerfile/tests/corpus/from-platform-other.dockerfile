FROM armed
RUN x
WORKDIR /a
COPY x /
