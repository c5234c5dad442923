from flagdeploy.cli.app import main

main()
