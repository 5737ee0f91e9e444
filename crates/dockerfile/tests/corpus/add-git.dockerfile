FROM busybox
ADD https://github.com/a/b.git /one
ADD https://github.com/a/b.git#main /two
ADD https://github.com/a/b.git#v1:sub/dir /three
ADD --keep-git-dir https://github.com/a/b.git#x /four
ADD --keep-git-dir=true --link https://github.com/a/b.git /five
ADD git@github.com:a/b.git#y /six
ADD git://example.com/a/b.git#z:w /seven
ADD ssh://git@example.com/a/b.git /eight
