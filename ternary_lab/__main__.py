from ternary_lab.cli import main

main()
