# Debian's packages and sources of any release, without installing anything. To be sourced with $servers set and the
# project's folder as the current one.
#
# No root is needed, and apt's own lists and settings are not touched: everything lies in a private folder $work, which
# is removed at the end.
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
work=

give_up() {
    echo "${0##*/}: $1" >&2
    exit 1
}

# The Debian mirror that this machine uses already.
debian_mirror() {
    if [ -n "${DEBIAN_MIRROR:-}" ]; then
        echo "$DEBIAN_MIRROR"
        return
    fi
    apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
        awk '$3 == "main" && $1 ~ /\/debian\/?$/ && $2 !~ /security/ { print $1; exit }'
}

# download TYPE SUITE APT-WORDS...: runs apt-get in $work, of the packages (TYPE deb) or sources (deb-src) of SUITE.
download() {
    local type=$1 suite=$2 mirror
    shift 2
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || give_up "this is no Debian machine"
    [ -e "$keyring" ] || give_up "Debian's archive keys are missing (package debian-archive-keyring)"
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || give_up "no Debian mirror is set up for apt; name one in DEBIAN_MIRROR"
    mkdir -p "$servers"
    work=$(mktemp -d "$servers/.fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work"/{etc,state/lists/partial,cache/archives/partial,root}
    : >"$work/state/status"
    echo "$type [signed-by=$keyring] $mirror $suite main" >"$work/etc/sources.list"
    cat >"$work/apt.conf" <<CONF
Dir::Etc "$work/etc";
Dir::Etc::sourcelist "$work/etc/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$work/state";
Dir::State::status "$work/state/status";
Dir::Cache "$work/cache";
APT::Sandbox::User "";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Retries "3";
CONF
    if ! (cd "$work/root" && export APT_CONFIG=$work/apt.conf && apt-get -q update && apt-get -q -y "$@") \
        >"$work/log" 2>&1 </dev/null; then
        tail -n 10 "$work/log" >&2
        give_up "Debian $suite could not be downloaded"
    fi
}

# Removes what `download` has left.
forget_download() {
    rm -rf "$work"
    trap - EXIT
}
