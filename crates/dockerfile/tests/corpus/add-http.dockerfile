FROM busybox
ADD https://example.com/a/b.txt /x/
ADD http://example.com /y/
ADD https://example.com/q?a=b#f /z
ADD --checksum=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 https://example.com/c /c
ADD --unpack https://example.com/d.tgz /d/
ADD --chmod=755 --chown=3:4 https://example.com/e /e
ADD https://example.com/f local /g/
