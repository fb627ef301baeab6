# Writes a C++ source that holds each of FILES (names relative to FOLDER) as a string literal, as
# `embedded_files()` of namespace reckon::NAMESPACE, declared in HEADER.
set(rows "")
foreach(name IN LISTS FILES)
  file(READ ${FOLDER}/${name} text)
  string(APPEND rows "    {\"${name}\", R\"catalog(${text})catalog\"},\n")
endforeach()
file(WRITE ${OUTPUT} "#include \"${HEADER}\"

namespace reckon::${NAMESPACE} {

const std::vector<hw::EmbeddedFile>& embedded_files() {
  static const std::vector<hw::EmbeddedFile> files = {
${rows}  };
  return files;
}

}  // namespace reckon::${NAMESPACE}
")
