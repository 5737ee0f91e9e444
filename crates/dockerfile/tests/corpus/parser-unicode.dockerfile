FROM busybox
ENV GRÜSS=dich
RUN echo "ü€𝄞"
LABEL ключ="значение"
COPY файл /каталог/
