# Helpers for building against ROS 2 packages that pip put into a Python environment.
# In a ROS installation both parts change nothing.

# Exported targets of such packages can name include directories of the machine that built them, and CMake refuses
# to generate when one does not exist. Keep those that do (rosidl_generator_py finds the Python headers by itself).
function(drop_absent_include_dirs)
  get_property(targets DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}" PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(include_dirs ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(include_dirs)
      set(present "")
      foreach(include_dir IN LISTS include_dirs)
        if(include_dir MATCHES "^\\$<" OR EXISTS "${include_dir}")
          list(APPEND present "${include_dir}")
        endif()
      endforeach()
      set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${present}")
    endif()
  endforeach()
endfunction()

# Under pip (SKBUILD) nobody has sourced a ROS environment: the packages lie in the prefix of ament_package.
if(DEFINED SKBUILD AND NOT DEFINED ENV{AMENT_PREFIX_PATH})
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND "${Python3_EXECUTABLE}" -c
      "import ament_package, pathlib; print(pathlib.Path(ament_package.__file__).resolve().parents[4])"
    OUTPUT_VARIABLE ros_prefix
    OUTPUT_STRIP_TRAILING_WHITESPACE
    COMMAND_ERROR_IS_FATAL ANY)
  set(ENV{AMENT_PREFIX_PATH} "${ros_prefix}")
  list(PREPEND CMAKE_PREFIX_PATH "${ros_prefix}")
endif()
