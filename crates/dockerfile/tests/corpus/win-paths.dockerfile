FROM nano
WORKDIR /app/sub
COPY a /x/y/
COPY --from=nano /Files/z w
ADD q C:/r/
