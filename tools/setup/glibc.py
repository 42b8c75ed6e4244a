"""Lets programs run with an older glibc than that of the machine that builds them: puts the libraries of the older
glibc, for the linker, into a folder.

The libraries come from zig, a C compiler that knows which function each version of glibc has (`pip install ziglang`).
Those libraries have symbols and no code. Without zig, programs need the builder's glibc, or a newer one.
"""

import importlib.util
import os
import pathlib
import platform
import re
import subprocess
import sys

# The version that libtorch's own package needs, manylinux_2_28.
VERSION = "2.28"

# Symbols that headers of GCC 12 and newer need and that libraries of that time lack, made from ones that they have.
# In C, and weak where they belong to C++, because this is also linked with programs without C++.
MISSING = """
#define HIDDEN __attribute__((visibility("hidden")))
#define OSTREAM _ZNSt7__cxx1119basic_ostringstreamIcSt11char_traitsIcESaIcEEC1Ev
#define OSTREAM_MODE _ZNSt7__cxx1119basic_ostringstreamIcSt11char_traitsIcESaIcEEC1ESt13_Ios_Openmode
#define STREAM _ZNSt7__cxx1118basic_stringstreamIcSt11char_traitsIcESaIcEEC1Ev
#define STREAM_MODE _ZNSt7__cxx1118basic_stringstreamIcSt11char_traitsIcESaIcEEC1ESt13_Ios_Openmode

/* `std::shared_ptr` counts without atomic instructions where this is set. */
HIDDEN char __libc_single_threaded = 0;

/* `std::__throw_bad_array_new_length`, of GCC 11: what it throws is a `std::bad_alloc`. */
__attribute__((weak, noreturn)) void _ZSt17__throw_bad_allocv(void);
HIDDEN __attribute__((noreturn)) void _ZSt28__throw_bad_array_new_lengthv(void) { _ZSt17__throw_bad_allocv(); }

/* `std::ostringstream()` and `std::stringstream()`, of GCC 9: those with a mode, `out` and `in | out`. */
__attribute__((weak)) void OSTREAM_MODE(void *self, int mode);
HIDDEN void OSTREAM(void *self) { OSTREAM_MODE(self, 16); }
__attribute__((weak)) void STREAM_MODE(void *self, int mode);
HIDDEN void STREAM(void *self) { STREAM_MODE(self, 24); }
"""


def available():
    return importlib.util.find_spec("ziglang") is not None


def libraries(folder):
    """Fills the folder. Returns the arguments with which a C compiler links against it."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "program.c"
    program.write_text("int main(void) { return 0; }\n")
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-gnu.{VERSION}"]
    variables = dict(os.environ, ZIG_GLOBAL_CACHE_DIR=str(folder / "zig"), ZIG_LOCAL_CACHE_DIR=str(folder / "zig"))
    link = [*zig, "-v", "-fPIE", "-pie", str(program), "-o", str(folder / "program")]
    said = subprocess.run(link, check=True, env=variables, cwd=folder, capture_output=True, text=True).stderr
    found = {pathlib.Path(word).name: folder / word for word in said.split()
             if re.search(r"/(Scrt1\.o|libc_nonshared\.a|lib\w+\.so\.\d+)$", word)}
    if not {"Scrt1.o", "libc_nonshared.a", "libc.so.6", "libm.so.6"} <= set(found):
        sys.exit(f"wheel: zig 0.17.1 is known to say what it links; this one named {sorted(found)}")
    for name, path in found.items():
        # `-lm` looks for libm.so. libc.so is a text, below, which names its two parts and the loader.
        library = name.partition(".so.")[0] + ".so"
        place = folder / {"libc.so": name, "libld.so": "loader.so"}.get(library, library if ".so." in name else name)
        place.unlink(missing_ok=True)
        place.symlink_to(path)
    (folder / "libc.so").write_text("GROUP ( libc.so.6 libc_nonshared.a AS_NEEDED ( loader.so ) )\n")
    source = folder / "missing.c"
    source.write_text(MISSING)
    compiled = folder / "missing.o"
    subprocess.run([os.environ.get("CC", "cc"), "-O1", "-fPIC", "-c", str(source), "-o", str(compiled)], check=True)
    # The machine's libstdc++ needs the machine's newer glibc, but programs will run with another libstdc++.
    return [f"-B{folder}", f"-L{folder}", str(compiled), "-Wl,--allow-shlib-undefined"]
