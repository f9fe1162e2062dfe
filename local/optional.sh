# Sourced by test.sh and check.sh: installs into the environment of $PYTHON what only some commands need, so that these can be
# tested and their types checked. Where something cannot be installed, it is said, and its tests are skipped.

install_optional() {
  local pip=("$PYTHON" -m pip install --quiet --disable-pip-version-check)
  # The Triton kernels of mamba-ssm, which need no compiler and which Triton can interpret on a CPU.
  has_modules einops mamba_ssm ||
    { "${pip[@]}" einops==0.8.2 setuptools wheel packaging ninja &&
      MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE "${pip[@]}" --no-deps --no-build-isolation mamba-ssm==2.3.2.post1; } ||
    echo "mamba-ssm cannot be installed here (see above): the test of its kernels is skipped"
  # What runs exported models.
  { has_modules onnx onnxruntime sherpa_onnx openvino nncf sounddevice websockets && "$PYTHON" -m pip show --quiet sherpa-onnx-bin; } ||
    "${pip[@]}" -r requirements-deploy.txt ||
    echo "requirements-deploy.txt cannot be installed here (see above): the tests of exported models are skipped"
  # The server, and the client that it must be understood by.
  has_modules starlette uvicorn websockets openai || "${pip[@]}" -r requirements-serve.txt openai==3.57.0 ||
    echo "requirements-serve.txt cannot be installed here (see above): the tests of sammo serve are skipped"
}

has_modules() {
  "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(None in map(u.find_spec, sys.argv[1:]))' "$@"
}
