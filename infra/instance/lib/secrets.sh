# Secrets Manager: values travel through pipes only, never through a command line, a file or the log.
# shellcheck shell=bash

# secrets_call ACTION, its JSON body on standard input.
secrets_call() {
  local address="https://secretsmanager.$AWS_REGION.amazonaws.com"
  # The body's pipe moves aside: curl's configuration takes standard input.
  aws_request secretsmanager --max-time 60 --request POST --data-binary @/dev/fd/3 \
    --header 'Content-Type: application/x-amz-json-1.1' --header "X-Amz-Target: secretsmanager.$1" \
    "${AWS_ENDPOINT_URL:-$address}/" 3<&0
}

# Prints the current value of a secret, a JSON document: secret_value ARN
secret_value() {
  printf '{"SecretId": "%s"}' "$1" | secrets_call GetSecretValue |
    python3 -c 'import json, sys; sys.stdout.write(json.load(sys.stdin)["SecretString"])'
}

# Puts the authority's certificate into the member `ca` of a secret, unless it is there: publish_authority ARN
publish_authority() {
  local body
  body=$(secret_value "$1" | python3 -c '
import json, pathlib, sys, uuid
arn, ca = sys.argv[1], pathlib.Path(sys.argv[2]).read_text()
secret = json.load(sys.stdin)
if secret.get("ca") != ca:
    value = json.dumps(secret | {"ca": ca})
    print(json.dumps({"SecretId": arn, "SecretString": value, "ClientRequestToken": str(uuid.uuid4())}))
' "$1" "$TLS_FOLDER/ca.crt") || die "secret $1 cannot be read or is no JSON document: check the instance role's policy"
  [[ -n $body ]] || return 0
  printf '%s' "$body" | secrets_call PutSecretValue >/dev/null || die "secret $1 cannot be written: check the instance role's policy"
  say "put the authority's certificate into $1"
}

# Prints the SQL that gives a secret's user that secret's password, and nothing when it has it already. The server sees
# a SCRAM verifier only, so that no log can hold the password: password_sql, with the secret on standard input and
# after it the role's verifier of now.  https://www.rfc-editor.org/rfc/rfc5803
password_sql() {
  # shellcheck disable=SC2016
  python3 -c '
import base64, hashlib, hmac, json, os, re, sys
text = sys.stdin.read()
secret, end = json.JSONDecoder().raw_decode(text)
verifier = text[end:].strip()
role, password = secret["username"], secret["password"]
if not password.isascii() or not re.fullmatch("[a-z_][a-z0-9_]*", role):
    sys.exit("the password is not ASCII, or the user no plain name")

def scram(salt, rounds):
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    client = hmac.digest(salted, b"Client Key", "sha256")
    keys = hashlib.sha256(client).digest(), hmac.digest(salted, b"Server Key", "sha256")
    text = [base64.b64encode(part).decode() for part in (salt, *keys)]
    return "SCRAM-SHA-256$%d:%s$%s:%s" % (rounds, *text)

known = re.match(r"SCRAM-SHA-256\$(\d+):([^$]+)\$", verifier)
if not known or scram(base64.b64decode(known[2]), int(known[1])) != verifier:
    print("ALTER ROLE %s PASSWORD \x27%s\x27;" % (role, scram(os.urandom(16), 4096)))
'
}
