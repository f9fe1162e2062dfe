# Sourced by scripts with options, whose function usage prints --help.

die() {
  echo "error: $*" >&2
  exit 1
}

# Cores that this process may use. nproc alone would answer with OMP_NUM_THREADS, which is one process's threads.
count_cores() {
  env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2> /dev/null || echo 2
}

# --name VALUE and --name=VALUE set $name, dashes as underscores; --flag sets $flag to true; what follows -- goes into the
# array $rest.
parse_options() { # "NAME ..." "FLAG ..." ARGUMENT...
  local names=" $1 " flags=" $2 " name
  shift 2
  rest=()
  while [ $# -gt 0 ]; do
    case $1 in
      --help | -h) usage && exit 0 ;;
      --) rest=("${@:2}") && return ;;
      --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    esac
    name=${1#--}
    [[ $1 =~ ^--[a-z0-9-]+$ ]] && [[ "$names$flags" == *" $name "* ]] || die "unknown option $1; see --help"
    if [[ $flags == *" $name "* ]]; then
      printf -v "${name//-/_}" true
      shift
    else
      [ $# -gt 1 ] || die "$1 needs a value; see --help"
      printf -v "${name//-/_}" '%s' "$2"
      shift 2
    fi
  done
}

# Whether what the options of these names hold, all of it, fits the pattern.
check_options() { # "NAME ..." pattern what-it-must-be
  local name
  for name in $1; do
    [[ ${!name} =~ ^($2)$ ]] || die "--${name//_/-} must be $3, got '${!name}'"
  done
}
