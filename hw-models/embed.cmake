# Writes a C++ source that holds each of FILES (relative to FOLDER, or whole paths where there is
# none) as a string literal, as `FUNCTION()` (embedded_files unless given) of namespace
# reckon::NAMESPACE, declared in HEADER.
if(NOT DEFINED FUNCTION)
  set(FUNCTION embedded_files)
endif()
set(rows "")
foreach(path IN LISTS FILES)
  set(name ${path})
  if(DEFINED FOLDER)
    set(path ${FOLDER}/${path})
  else()
    get_filename_component(name ${path} NAME)
  endif()
  file(READ ${path} text)
  string(APPEND rows "    {\"${name}\", R\"catalog(${text})catalog\"},\n")
endforeach()
file(WRITE ${OUTPUT} "#include \"${HEADER}\"

namespace reckon::${NAMESPACE} {

const std::vector<hw::EmbeddedFile>& ${FUNCTION}() {
  static const std::vector<hw::EmbeddedFile> files = {
${rows}  };
  return files;
}

}  // namespace reckon::${NAMESPACE}
")
