# Writes a C++ source that holds each of FILES (names relative to FOLDER) as a string literal. See embedded.h.
set(rows "")
foreach(name IN LISTS FILES)
  file(READ ${FOLDER}/${name} text)
  string(APPEND rows "    {\"${name}\", R\"catalog(${text})catalog\"},\n")
endforeach()
file(WRITE ${OUTPUT} "#include \"hw-models/embedded.h\"

namespace reckon::hw {

const std::vector<EmbeddedFile>& embedded_files() {
  static const std::vector<EmbeddedFile> files = {
${rows}  };
  return files;
}

}  // namespace reckon::hw
")
