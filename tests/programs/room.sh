#!/bin/sh
# room.sh NAMES WORK: a shell in which `iptables` and its kin are those in the folder NAMES, and in
# which the programs that edit rules have settings, state and sockets of their own: what they
# change in /etc, /var and /run is seen by nobody else and is gone at the end.
#
# Runs in a mount namespace (unshare --mount). Each line of standard input is done by the shell;
# behind its output comes a line of \001 and its exit status. WORK is a folder for files; every
# call of the names is written to WORK/calls, with its exit status.
set -eu
names=$1 WORK=$2
export WORK

# The room's own copies, in memory.
store=$WORK/.store
mkdir "$store"
mount -t tmpfs room "$store"
own() {
    [ -e "$1" ] || return 0
    mkdir -p "$store$(dirname "$1")"
    cp -a "$1" "$store$1"
    mount --bind "$store$1" "$1"
}
for path in /etc/alternatives /etc/default /etc/fail2ban /etc/ufw /lib/ufw \
    /var/lib/fail2ban; do
    own "$path"
done
mkdir "$store/run" "$store/log"
mount --bind "$store/run" /run
mount --bind "$store/log" /var/log
mkdir /run/fail2ban /run/lock

# The names, each of which notes its calls.
mkdir "$store/bin"
for path in "$names"/*; do
    name=${path##*/}
    cat >"$store/bin/$name" <<END
#!/bin/sh
"$path" "\$@"
status=\$?
echo "$name \$* = \$status" >>"$WORK/calls"
exit \$status
END
    chmod +x "$store/bin/$name"
    # As update-alternatives does it.
    ln -sfn "$store/bin/$name" "/etc/alternatives/$name"
done
export PATH="$store/bin:/usr/sbin:/usr/bin:/sbin:/bin" LC_ALL=C
unset XDG_RUNTIME_DIR
cd "$WORK"
set +eu
printf '\001ready\n'
while IFS= read -r line; do
    eval "$line" </dev/null 2>&1
    printf '\001%s\n' "$?"
done
