# The server's certificate, signed by an authority of our own. Both lie on the data volume: they outlive the instance,
# so clients go on trusting its successor.
# shellcheck shell=bash

CA_DAYS=7300
CERTIFICATE_DAYS=365
RENEW_DAYS=60

make_authority() {
  [[ -s $TLS_FOLDER/ca.crt && -s $TLS_FOLDER/ca.key ]] && return
  say "making the authority that signs the database's certificate"
  # The authority's key is root's alone: the server has no use for it.
  make_folder "$TLS_FOLDER" 0755 "$(id -un)"
  (
    umask 077
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -sha256 -days "$CA_DAYS" \
      -subj "/CN=Fleetledger database CA of $METRICS_SERVICE" \
      -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign \
      -keyout "$TLS_FOLDER/ca.key.new" -out "$TLS_FOLDER/ca.crt.new" 2>/dev/null
  )
  chmod 0644 "$TLS_FOLDER/ca.crt.new"
  mv "$TLS_FOLDER/ca.key.new" "$TLS_FOLDER/ca.key"
  mv "$TLS_FOLDER/ca.crt.new" "$TLS_FOLDER/ca.crt"
}

# Whether the server's certificate is there, made out to the host's name, of this authority, and good for a while.
certificate_is_good() {
  local file=$TLS_FOLDER/server.crt
  [[ -s $file && -s $TLS_FOLDER/server.key ]] &&
    openssl x509 -in "$file" -noout -checkend $((RENEW_DAYS * 86400)) >/dev/null &&
    openssl x509 -in "$file" -noout -checkhost "$DATABASE_HOST" | grep -q 'does match' &&
    openssl verify -CAfile "$TLS_FOLDER/ca.crt" "$file" >/dev/null 2>&1
}

# Makes the server's certificate anew when it needs to be; a running server takes it when it reloads.
renew_certificate() {
  local key=$TLS_FOLDER/server.key file=$TLS_FOLDER/server.crt
  if certificate_is_good; then
    # Its number may be another than on the instance before.
    chown "$OS_USER:$(id -gn "$OS_USER")" "$key"
    return
  fi
  (
    umask 077
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -sha256 -subj "/CN=$DATABASE_HOST" \
      -keyout "$key.new" -out "$TLS_FOLDER/server.csr" 2>/dev/null
  )
  openssl x509 -req -in "$TLS_FOLDER/server.csr" -CA "$TLS_FOLDER/ca.crt" -CAkey "$TLS_FOLDER/ca.key" -sha256 \
    -days "$CERTIFICATE_DAYS" -set_serial "0x$(openssl rand -hex 16)" -out "$file.new" 2>/dev/null \
    -extfile <(printf '%s\n' 'basicConstraints=critical,CA:FALSE' 'keyUsage=critical,digitalSignature' \
      'extendedKeyUsage=serverAuth' "subjectAltName=DNS:$DATABASE_HOST")
  rm "$TLS_FOLDER/server.csr"
  chown "$OS_USER:$(id -gn "$OS_USER")" "$key.new"
  chmod 0600 "$key.new"
  chmod 0644 "$file.new"
  mv "$key.new" "$key"
  mv "$file.new" "$file"
  say "made a certificate for $DATABASE_HOST"
}
