cat > uwsd.toml << 'END'
[services.head]
title = "First lines"
command = ["head", "--lines={lines}", "{text}"]
results = [{ id = "lines", path = "-" }]

[services.head.parameters]
text  = { type = "file", required = true }
lines = { type = "int", min = 1, default = 10 }
END
uwsd serve > serving
run head -F text=@LICENSE -F lines=1
ended
run head -F text=@LICENSE -F lines=2
ended
